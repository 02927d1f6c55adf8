"""The creator: makes pictures of words, conditioned on the user and on what the recommender would name next."""

from genrec.content.creator.creator import Creator, joint_taste, taste_of, title_of

__all__ = ["Creator", "joint_taste", "taste_of", "title_of"]
