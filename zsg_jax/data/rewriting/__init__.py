"""String rewriting as data (arXiv 2402.10891): rules, rows of them as arrays, and as text."""
