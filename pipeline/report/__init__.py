"""`report.html`: a run to look at, in one file that opens from disk."""
