"""A kind of its own, `length-penalties`, two components of it, and a command that uses the chosen one."""
