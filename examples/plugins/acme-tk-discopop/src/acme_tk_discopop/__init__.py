"""The DiscoPOP loss."""
