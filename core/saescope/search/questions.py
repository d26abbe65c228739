"""Questions and requests that nearly anything may answer, for a model within its chat template."""

QUESTIONS = (
    "What did you do this morning?",
    "Tell me something about the town you live in.",
    "How should I begin a letter to an old friend?",
    "What makes a good teacher?",
    "Describe the room that you are in.",
    "Can you recommend a book?",
    "What is the best way to learn a language?",
    "Write a few lines about a walk.",
    "Why do people travel?",
    "What should I cook tonight?",
    "Explain how a bicycle works.",
    "What are you thinking about?",
    "How was your week?",
    "Give me some advice for a job interview.",
    "What is your favourite time of the year?",
)
