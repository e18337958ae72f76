"""Pictures for models that take them: reading, and the MediaProcessor over transformers' image processors."""
