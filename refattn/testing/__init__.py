"""The testing kit: is it rounding, or a bug, and which bug?"""
