"""What the stack is: settings, services and the plan made of them. No engine is touched in here but in deploy.py."""
