"""Generation by LMDeploy."""
