-- The department's database and the subscriber's, on one server. What concerns the department is what
-- `guitong system prepare licensing` prints.
CREATE ROLE guitong_reader LOGIN REPLICATION PASSWORD 'only-on-this-machine';
CREATE ROLE guitong_writer LOGIN PASSWORD 'only-on-this-machine';
CREATE DATABASE department;
CREATE DATABASE subscriber;

\connect department
CREATE TABLE qy_jbxx (
    qybh bigint PRIMARY KEY,
    tyshxydm char(18),
    qymc text,
    fddbr text,
    clrq char(8),
    djzt text,
    zs text,
    xzqh char(6)
);
COMMENT ON TABLE qy_jbxx IS '企业基本信息';
-- Synthetic: codes of the user-defined range of GB 11714. The last one has a wrong check character on purpose.
INSERT INTO qy_jbxx VALUES
    (1, '91450103PDY001012U', '南宁甲有限公司', '韦小明', '20170922', '存续', '广西南宁市青秀区民族大道1号', '450103'),
    (2, '91450202PDY001020D', '柳州乙有限公司', '覃丽', '20191105', '在营', '广西柳州市城中区中山路2号', '450202'),
    (3, '91450302PDY001039F', '桂林丙有限公司', '欧阳海燕', '20210301', '注销', '广西桂林市秀峰区正阳路3号', '450302'),
    (4, '91450502PDY0010471', '北海丁有限公司', '陆志强', '20230818', '存续', '广西北海市海城区北部湾路4号', '450502');
GRANT USAGE ON SCHEMA public TO guitong_reader;
GRANT SELECT ON qy_jbxx TO guitong_reader;
CREATE PUBLICATION my_exchange_licensing FOR TABLE ONLY qy_jbxx
    WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);

\connect subscriber
GRANT CREATE ON DATABASE subscriber TO guitong_writer;
CREATE SCHEMA shared AUTHORIZATION guitong_writer;
