"""Every knob of the two scripts, and the rules that their values keep."""
