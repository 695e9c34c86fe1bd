//! x
use deployd_tests::image::{Image, Suite};
use deployd_tests::machine::Host;

#[test]
fn boots() -> anyhow::Result<()> {
    let image = Image::ensure(Suite::Bookworm)?;
    let t = std::time::Instant::now();
    let mut host = Host::boot(&image, "web1")?;
    eprintln!("boot {:?}", t.elapsed());
    println!("{}", host.ok("systemctl list-units --no-pager --all --type=service,socket; ip addr; cat /proc/self/cgroup; systemctl --failed; journalctl -b --no-pager -p warning; free -m; node --version")?);
    host.reboot()?;
    host.ok("true")?;
    host.crash()?;
    host.start()?;
    println!("{}", host.ok("journalctl --list-boots")?);
    host.finish()
}
