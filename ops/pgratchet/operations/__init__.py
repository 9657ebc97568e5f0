"""Operations: work on a target that runs on this machine or, unchanged, on the target's host."""
