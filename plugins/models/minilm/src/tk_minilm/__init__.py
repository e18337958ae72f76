"""The MiniLM sentence encoders."""
