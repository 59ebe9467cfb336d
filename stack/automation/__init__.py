"""Workflow templates: what they are made of, what is refused in one, and what n8n is given in the end."""
