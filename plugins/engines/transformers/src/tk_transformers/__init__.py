"""Generation on the module in memory."""
