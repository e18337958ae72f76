"""Generation by an endpoint."""
