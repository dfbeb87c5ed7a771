"""The export job: from weights to a published bundle."""
