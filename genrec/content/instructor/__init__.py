"""The instructor: an instruction becomes a decision to retrieve, edit, create or ask back.

instructor = load_instructor(settings.content.instructor)
view = CatalogView.of_catalog(bundle.catalog, instructor.encoder)     # once
decision = instructor.decide(Instruction("a green heart in 3D style"), view)
"""

from genrec.content.instructor.catalog_view import CatalogView, Found
from genrec.content.instructor.instructor import InstructionError, Instructor, load_instructor

__all__ = ["CatalogView", "Found", "InstructionError", "Instructor", "load_instructor"]
