"""Who answers: signals are facts about a request, a policy's rules compare them, a route names a tree of responders."""
