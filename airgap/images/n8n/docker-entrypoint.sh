#!/bin/sh
# As in the official image: n8n with whatever arguments there are.
exec n8n "$@"
