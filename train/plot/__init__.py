"""Pictures: of a run, of several runs side by side, of a study."""
