"""Stream Runner: AWS Lambda's event source mapping for streams that you host yourself."""
