//! The commands of a page of the documentation: a test runs what a reader types, and nothing else.
//!
//! A block of the language `sh` is typed line by line; a line that ends with `\` goes on in the next one. Other
//! languages are shown, not typed: `text` is output, `toml` a file. A file to be written stands in a block whose
//! language is followed by its path: ```` ```toml deployd.toml ````.

use anyhow::{Result, ensure};

/// A block of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The words behind the fence: a language, and perhaps a path.
    pub info: String,
    /// What it contains.
    pub text: String,
}

/// The blocks of code of a page, in order.
pub fn blocks(page: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => open = Some(Block { info: info.trim().to_owned(), text: String::new() }),
            (Some(block), None) => block.text += &format!("{line}\n"),
            (Some(_), Some(rest)) => {
                ensure!(rest.is_empty(), "a block ends with ```{rest}");
                blocks.extend(open.take());
            }
            (None, None) => {}
        }
    }
    ensure!(open.is_none(), "a block of code has no end");
    Ok(blocks)
}

/// The commands of the blocks in `sh`, in order, as root types them: without `sudo`.
pub fn commands(page: &str) -> Result<Vec<String>> {
    let mut commands = Vec::new();
    for block in blocks(page)?.iter().filter(|block| block.info == "sh") {
        let joined = block.text.replace("\\\n", " ");
        let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        commands.extend(lines.map(|line| line.trim_start_matches("sudo ").to_owned()));
    }
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# A\n\n```sh\n# first\nsudo apt install ./x\n\nctl hosts add a=1 \\\n  b=2\n```\n\
                        text\n```text\n$ not typed\n```\n```toml deployd.toml\napp = \"x\"\n```\n```sh\nctl push\n```\n";

    /// More, and it is no first hour. What the commands do is `host_first_hour`'s subject.
    #[test]
    fn the_first_hour_is_short() -> Result<()> {
        let page = std::fs::read_to_string(crate::package::repository().join("docs/first-hour.md"))?;
        let commands = commands(&page)?;
        assert!((5..=15).contains(&commands.len()), "{} commands: {commands:#?}", commands.len());
        assert!(commands[0].contains("deployd-ctl_*.deb"), "it begins with an installation: {commands:#?}");
        let count = |word: &str| commands.iter().filter(|command| command.starts_with(word)).count();
        assert!(count("deployd-ctl push") == 2 && count("deployd-ctl status") == 2, "{commands:#?}");
        let named: Vec<&str> =
            ["web1", "web2", "web3"].into_iter().filter(|host| page.contains(host)).collect();
        assert_eq!(named.len(), 3, "{named:?}");
        Ok(())
    }

    #[test]
    fn only_what_is_typed_is_a_command() -> Result<()> {
        let commands = commands(PAGE)?;
        assert_eq!(commands.len(), 3, "{commands:?}");
        assert_eq!(commands[0], "apt install ./x");
        assert_eq!(commands[1].split_whitespace().collect::<Vec<_>>(), ["ctl", "hosts", "add", "a=1", "b=2"]);
        let files: Vec<Block> = blocks(PAGE)?.into_iter().filter(|b| b.info.contains(' ')).collect();
        assert_eq!(files, [Block { info: "toml deployd.toml".into(), text: "app = \"x\"\n".into() }]);
        assert!(blocks("```sh\nls\n").is_err());
        Ok(())
    }
}
