"""GeneRec (arXiv 2304.03516): decide whether to retrieve, edit or create; make it; check it; let it be recommended."""
