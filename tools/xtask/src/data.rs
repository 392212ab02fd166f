pub fn fetch() -> anyhow::Result<()> {
    Ok(())
}
