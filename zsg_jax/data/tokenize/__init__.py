"""Conversations as tokens: tokenizers, templates, truncation, the token store."""
