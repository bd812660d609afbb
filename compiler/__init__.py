"""What a user calls, and how a model flows: source -> Model -> passes -> Bundle -> Session."""
