"""Day-two verbs behind ./kit. They use the plan and the stack's outputs, never a service by name."""
