"""GENPLUGIN (arXiv 2507.03568): a plug-in for any backbone, attached through the Protocol alone."""
