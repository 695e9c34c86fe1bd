//! The order of members in a reuseport group, as the kernel keeps it.
//!
//! A pure model of what was measured: an index is a place in the order of `listen()`, closing or shutting
//! down member `i` moves the *last* member into `i`, and an index that nobody has means *any* member. The
//! agent never guesses an index: it keeps one of these for each group and asks it.

/// The members of one group, in index order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group<M> {
    members: Vec<M>,
}

/// Who gets a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen<'a, M> {
    /// Exactly this member.
    Member(&'a M),
    /// Some member, by hash: the program returned an index that nobody has.
    Any,
    /// Nobody listens: the connection is refused.
    Nobody,
}

impl<M: PartialEq> Group<M> {
    /// A group without members.
    pub fn new() -> Self {
        Self { members: Vec::new() }
    }

    /// The member called `listen()`: it gets the next index. A second `listen()` changes nothing.
    pub fn listen(&mut self, member: M) {
        if !self.members.contains(&member) {
            self.members.push(member);
        }
    }

    /// The last descriptor of the member was closed.
    pub fn close(&mut self, member: &M) {
        self.leave(member);
    }

    /// Somebody called `shutdown(SHUT_RD)` on the member: it leaves at once, whoever still holds it.
    pub fn shutdown(&mut self, member: &M) {
        self.leave(member);
    }

    fn leave(&mut self, member: &M) {
        if let Some(index) = self.members.iter().position(|m| m == member) {
            self.members.swap_remove(index);
        }
    }

    /// The index of a member, for a program or a mark. `None` when it is not (or no longer) a member.
    pub fn index_of(&self, member: &M) -> Option<u8> {
        let index = self.members.iter().position(|m| m == member)?;
        u8::try_from(index).ok()
    }

    /// Who gets a connection for which the program returned `index`.
    pub fn choose(&self, index: u32) -> Chosen<'_, M> {
        let found = usize::try_from(index).ok().and_then(|i| self.members.get(i));
        match found {
            Some(member) => Chosen::Member(member),
            None if self.members.is_empty() => Chosen::Nobody,
            None => Chosen::Any,
        }
    }

    /// The members, in index order.
    pub fn members(&self) -> &[M] {
        &self.members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(members: &str) -> Group<char> {
        let mut group = Group::new();
        members.chars().for_each(|m| group.listen(m));
        group
    }

    #[test]
    fn listen_order_is_index_order() {
        let g = group("cab");
        assert_eq!("cab".chars().map(|m| g.index_of(&m)).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn closing_moves_the_last_member_into_the_gap() {
        let mut g = group("abcd");
        g.close(&'b');
        assert_eq!(g.members(), ['a', 'd', 'c']);
        g.close(&'c');
        assert_eq!(g.members(), ['a', 'd']);
    }

    #[test]
    fn a_member_that_was_shut_down_comes_back_at_the_end() {
        let mut g = group("abc");
        g.shutdown(&'a');
        assert_eq!(g.index_of(&'a'), None);
        g.listen('a');
        assert_eq!(g.members(), ['c', 'b', 'a']);
    }

    #[test]
    fn listening_twice_changes_nothing() {
        let mut g = group("ab");
        g.listen('a');
        assert_eq!(g.members(), ['a', 'b']);
    }

    #[test]
    fn an_index_that_nobody_has_means_any_member() {
        let g = group("ab");
        assert_eq!(g.choose(1), Chosen::Member(&'b'));
        assert_eq!(g.choose(2), Chosen::Any);
        assert_eq!(g.choose(u32::MAX), Chosen::Any);
        assert_eq!(group("").choose(0), Chosen::Nobody);
    }

    #[test]
    fn with_two_members_start_order_is_index_order_over_any_number_of_swaps() {
        let mut g = Group::new();
        g.listen(0);
        for next in 1..50 {
            g.listen(next);
            assert_eq!((g.index_of(&(next - 1)), g.index_of(&next)), (Some(0), Some(1)));
            g.close(&(next - 1));
            assert_eq!(g.index_of(&next), Some(0));
        }
    }
}
