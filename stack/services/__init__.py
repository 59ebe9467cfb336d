"""One file is one service: its containers, and everything it asks of the others."""
