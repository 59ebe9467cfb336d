#!/bin/sh
# Becomes the proxy. The official image's supervisor and tracer are not here.
exec litellm "$@"
