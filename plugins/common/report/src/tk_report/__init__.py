"""What a finished tk run looks like: report.html and the loss curve."""
