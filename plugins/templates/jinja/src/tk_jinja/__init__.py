"""The checkpoint's own chat template as a tk template."""
