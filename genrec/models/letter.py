"""LETTER as a host: TIGER's network over semantic IDs from LETTER's tokenizer.

Source: Wang et al. 2024, "Learnable Item Tokenization for Generative Recommendation" (arXiv 2405.07314). What is new
there is not the network: the IDs come from genrec/tokenizer/letter.py (``tokenizer.kind: letter``), and the
ranking-guided generation loss (eq. 8) is the next-item loss with a temperature (``training.losses``).
"""

from __future__ import annotations

from genrec.models.tiger import Tiger


class Letter(Tiger):
    """TIGER's network under LETTER's name, for tables of results."""
