//! The agent's config: files → merged → validated.
