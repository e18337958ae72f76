"""Chat formats as data: a frozen dataclass says what stands around each message."""
