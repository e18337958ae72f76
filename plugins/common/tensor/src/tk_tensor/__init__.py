"""Head statistics, collation and the scored module, shared by trainers and methods."""
