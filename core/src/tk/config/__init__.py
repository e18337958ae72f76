"""The config of a run: what it may hold, how it is read, merged, checked and saved."""
