"""One file, one workflow template: each defines TEMPLATE, named as its file. There is no list to keep."""
