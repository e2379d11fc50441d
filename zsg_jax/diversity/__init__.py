"""How many instructions it takes: string rewriting, and the sweep over it (arXiv 2402.10891)."""
