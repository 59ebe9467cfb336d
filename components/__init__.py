"""How things are made: Docker and Keycloak resources with their traps handled once. Nothing here knows a service."""
