"""Plan -> text and data for what cuts across services. Pure: no engine, no I/O but the files beside the services."""
