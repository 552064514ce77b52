//! Finding one of many named things without a second copy of the names.

/// The order of names, for binary search. Four bytes per name.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameIndex {
    sorted: Vec<u32>,
}

impl NameIndex {
    /// Indexes `count` names; the name at each position comes from `name`. An error is a name that appears twice.
    pub(crate) fn new<'a>(count: usize, name: impl Fn(usize) -> &'a String) -> Result<Self, &'a String> {
        // More than 2^32 names cannot occur: each takes more than one byte of a file, and both readers bound the count.
        let mut sorted: Vec<u32> = (0..count).map_while(|i| u32::try_from(i).ok()).collect();
        sorted.sort_unstable_by(|&a, &b| name(a as usize).cmp(name(b as usize)));
        for pair in sorted.windows(2) {
            if let [a, b] = *pair
                && name(a as usize) == name(b as usize)
            {
                return Err(name(b as usize));
            }
        }
        Ok(Self { sorted })
    }

    /// The position of `wanted`.
    pub(crate) fn find<'a>(&self, wanted: &str, name: impl Fn(usize) -> &'a String) -> Option<usize> {
        let at = self.sorted.binary_search_by(|&i| name(i as usize).as_str().cmp(wanted)).ok()?;
        self.sorted.get(at).map(|&i| i as usize)
    }
}

/// A name that is there twice, if there is one.
pub(super) fn duplicate<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair.first() == pair.last()).and_then(|pair| pair.first().copied())
}
