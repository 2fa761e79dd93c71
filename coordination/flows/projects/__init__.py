"""Operations on projects, one per file."""
