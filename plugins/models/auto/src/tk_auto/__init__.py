"""The fallback model family: any checkpoint whose architecture transformers knows."""
