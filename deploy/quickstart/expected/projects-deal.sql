-- 项目招标进度
SELECT
    unified_deal_code,
    section_no,
    project_code,
    title,
    notice_time,
    open_time
FROM deal
WHERE sector = '1'
