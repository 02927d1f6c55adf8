"""genrec: generative recommendation over semantic IDs, trained and served on Ray.

Floors, ground first (an import goes down, never up):
config, data, encoders -> tokenizer -> models, losses, decoding -> genplugin, retrieval
-> training, evaluation, content -> bundle, stages, cli.
"""

__version__ = "0.1.0"
