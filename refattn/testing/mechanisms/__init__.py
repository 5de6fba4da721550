"""What the kit knows of the mechanisms of spec/, a module or a package for each: subjects, their inputs, variants, bounds."""
