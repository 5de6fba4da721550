"""What docs/build.py is made of: one module for maths, text, code, docstrings, pictures, pages and checks."""
