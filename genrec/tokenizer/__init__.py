"""Item embeddings to semantic IDs: quantizers, unique assignment, the SidTable and its trie."""
