"""The papers' figures and tables as experiments: planned, run, judged and drawn at any scale."""
