"""Every knob of the two run scripts with its default, and the rules for its values."""
