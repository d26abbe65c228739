"""What features are called, and the blind quizzes that test it: one database for both."""

from saescope.features.labels.quiz import make_quiz
from saescope.features.labels.quiz_store import QuizStore
from saescope.features.labels.store import LabelStore

__all__ = ["LabelStore", "QuizStore", "make_quiz"]
